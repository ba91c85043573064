from examples.reproduce.conversations import Conversation, about_code, continuations, split

SOURCE = '''
"""A module."""

@cached
def double(x: int, *, times=1) -> int:
    """Return twice the number, so many times."""
    return 2 * x

class Shelf(list):
    """A list that knows how long it may be."""

    async def put(self, book):
        """Short."""

    def take(self):
        return "no docstring"
'''


def test_a_question_shows_the_first_line_and_its_answer_is_the_docstring() -> None:
    found = list(about_code([SOURCE]))
    assert found == [
        Conversation(
            "What does this do?\ndef double(x: int, *, times=1) -> int:",
            "Return twice the number, so many times.",
        ),
        Conversation(
            "What does this do?\nclass Shelf(list):", "A list that knows how long it may be."
        ),
    ]


def test_a_question_is_asked_once_and_what_does_not_parse_is_left_out() -> None:
    assert len(list(about_code([SOURCE, "def broken(:", "\0", SOURCE]))) == 2


def test_a_passage_is_cut_into_a_beginning_and_how_it_goes_on() -> None:
    words = [str(number) for number in range(100)]
    (found,) = continuations(["too short", " \n".join(words)])
    assert found.prompt == f"How does this go on?\n{' '.join(words[:30])}"
    assert found.answer == " ".join(words[30:90])


def test_the_last_of_every_few_is_held_out() -> None:
    found = [Conversation(str(number), "") for number in range(7)]
    train, held_out = split(found, 3)
    assert [conversation.prompt for conversation in train] == ["0", "1", "3", "4", "6"]
    assert [conversation.prompt for conversation in held_out] == ["2", "5"]
