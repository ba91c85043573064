"""A Dockerfile as its instructions."""

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """`FROM image AS name`, and the (instruction, rest of the line) pairs that follow."""

    image: str
    name: str | None
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def arguments(self, instruction: str) -> list[str]:
        """What stands after each `instruction`."""
        return [rest for name, rest in self.instructions if name == instruction]


def stages(path: Path) -> list[Stage]:
    """The stages of a Dockerfile in their order; lines that go on are joined, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    found: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            image, _, name = rest.partition(" AS ")
            found.append(Stage(image, name or None))
        elif instruction:
            found[-1].instructions.append((instruction, rest.strip()))
    return found


def copied(stage: Stage) -> list[str]:
    """What a stage takes from the build's context."""
    sources = []
    for rest in stage.arguments("COPY"):
        words = rest.split()
        options = [word for word in words if word.startswith("--")]
        if not any(option.startswith("--from=") for option in options):
            sources += words[len(options) : -1]
    return sources
