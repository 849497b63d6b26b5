"""Solution blocks: they are cut out, left in, and refused with their line where they are wrong."""

import pytest

from instructor.handout.stubs import MarkerError, by_number, find_blocks, strip_solutions
from kit.assignment import ROWS

EXAMPLE = '''
class Model:
    def encode(self, x):
        """Given."""
        y = 2 * x
        # A remark that is given.
        # TODO 4.3: the mode of q(h|x),
        # not a draw. Hint: none.
        # BEGIN SOLUTION
        if y > 1:
            y = 1
        return y
        # END SOLUTION

def bare(x):
    # TODO 4.4
    # BEGIN SOLUTION
    return x
    # END SOLUTION
'''


def test_blocks_become_their_prompt_and_an_error():
    encode, bare = find_blocks(EXAMPLE)
    assert (encode.todo, encode.name) == ("4.3", "Model.encode")
    assert encode.prompt == "the mode of q(h|x), not a draw"
    assert (bare.todo, bare.name, bare.prompt) == ("4.4", "bare", "")
    expected = EXAMPLE.splitlines()
    for block in (bare, encode):
        del expected[block.begin - 1 : block.end]
    error = "raise NotImplementedError"
    prompt = "TODO 4.3: the mode of q(h|x), not a draw"
    expected.insert(encode.begin - 1, f'        {error}("{prompt}")')
    expected.append(f'    {error}("TODO 4.4: bare")')
    assert strip_solutions(EXAMPLE).splitlines() == expected
    kept = strip_solutions(EXAMPLE, [encode])
    assert "return y" in kept and "return x" not in kept and "SOLUTION" not in kept
    whole = "".join(line for line in EXAMPLE.splitlines(True) if "SOLUTION" not in line)
    assert strip_solutions(EXAMPLE, [encode, bare]) == whole


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("        y = 2 * x\n", "        # BEGIN SOLUTION\n", r"line 9: .* nested .* line 5"),
        ("        # BEGIN SOLUTION\n", "", r"line 12: END SOLUTION without a BEGIN"),
        ("return x\n    # END SOLUTION\n", "return x\n", r"line 17: BEGIN SOLUTION without an END"),
        ("        # END SOLUTION\n", "", r"line 16: .* nested .* line 9"),
        ("        # END SOLUTION", "        # end solution", r"line 13: .* is neither"),
        ("        # BEGIN SOLUTION", "        # BEGIN_SOLUTION", r"line 9: .* is neither"),
        ("        # END SOLUTION\n\ndef bare(x):\n    # TODO 4.4\n    # BEGIN SOLUTION\n", "\n"
         "def bare(x):\n", r"line 9: .* inside a function"),
        ("def bare(x):", "if True:", r"line 17: .* inside a function"),
        ("class Model:\n", "# TODO 4: all\n# BEGIN SOLUTION\nx = 1\n# END SOLUTION\nclass Model:\n",
         r"line 3: .* inside a function"),
        ("        if y > 1:\n            y = 1\n        return y\n", "        # nothing\n",
         r"line 9: there is no statement"),
        ("        return y\n        # END SOLUTION\n", "        # END SOLUTION\n"
         "        else:\n            return y\n", r"line 9: .* cuts a statement"),
        ("# TODO 4.3: the mode", "# the mode", r"line 9: there is no `# TODO"),
        ("    # TODO 4.4\n", "    # TODO 4.4\n\n", r"line 18: there is no `# TODO"),
    ],
)  # fmt: skip
def test_wrong_markers_are_named_with_their_line(old, new, message):
    assert old in EXAMPLE
    with pytest.raises(MarkerError, match=message):
        strip_solutions(EXAMPLE.replace(old, new, 1))


def test_every_todo_of_the_table_has_a_block(source):
    todos = [todo for part in ROWS for todo in part.points]
    numbers = list(dict.fromkeys(block.todo for block in by_number(find_blocks(source))))
    found = []  # the row's TODO of each block: 2.2 has 2.2.1 to 2.2.4
    for number in numbers:
        found += [todo for todo in todos if f"{number}.".startswith(f"{todo}.")] or [number]
    assert list(dict.fromkeys(found)) == todos
    for todo in set(todos) - set(numbers):  # their steps are numbered without a gap
        steps = [number for number in numbers if number.startswith(f"{todo}.")]
        assert steps == [f"{todo}.{step + 1}" for step in range(len(steps))]
    assert "2.2.4" in numbers
    assert all(len(line) <= 100 for line in strip_solutions(source).splitlines())
