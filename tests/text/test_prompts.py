from pathlib import Path

import pytest

from sae_dist.common.errors import UserError
from sae_dist.text import read_prompts


def test_lines_and_rows_are_prompts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n  two \u2028 lines \n")
    (tmp_path / "a.jsonl").write_text(
        '{"prompt": "one\\ntwo", "text": "no"}\n\n{"text": "three"}\n{"prompt": " "}\n'
    )
    assert read_prompts(tmp_path / "a.txt") == ["one", "two \u2028 lines"]
    assert read_prompts(tmp_path / "a.jsonl") == ["one\ntwo", "three"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", None, "No such file.*correct transfer.prompts"),
        ("a.txt", b" \n\n", "empty.*correct transfer.prompts"),
        ("a.txt", b"\xff\xfe", "not in UTF-8"),
        ("a.jsonl", b'{"text": ""}', "empty"),
        ("a.jsonl", b'\n{"question": "x"}', "no prompt in .*, line 2.*`prompt` or `text`"),
        ("a.jsonl", b'{"prompt": 3}', "no prompt in .*, line 1"),
        ("a.jsonl", b'["x"]', "no prompt in"),
        ("a.jsonl", b"one", "no JSON in .*, line 1"),
    ],
)
def test_what_holds_no_prompts_is_refused(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_prompts(tmp_path / name)
