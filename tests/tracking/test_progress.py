import io
from dataclasses import replace

import pytest
from rich.console import Console

from tats_ray.tracking.progress import ProgressBar, ProgressState

START = ProgressState(
    step=0, total_steps=400, loss=1.0, clips_per_second=0.0, wait_share=0.0, mfu=0.0, seconds=0.0, stage="random"
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(states, *, end=None) -> list[str]:
    """The lines of a run that is in ``states`` at their ``seconds``, on something that is no terminal."""
    text, clock = io.StringIO(), Clock()
    with ProgressBar(console=Console(file=text, width=40), clock=clock) as bar:
        for state in states:
            clock.now = state.seconds
            bar.update(state)
    return text.getvalue().splitlines()


def test_a_log_gets_the_first_state_one_every_30_seconds_and_the_last():
    lines = shown(replace(START, step=step, seconds=float(step)) for step in range(71))
    assert [line.split()[1] for line in lines] == ["0/400", "30/400", "60/400", "70/400"]


def test_the_last_state_is_not_said_twice():
    assert len(shown([START])) == 1
    assert shown([]) == []


def test_a_line_says_what_a_user_asks():
    states = [START, replace(START, step=100, loss=0.6543, clips_per_second=35.21, wait_share=0.12, mfu=0.404)]
    states[1] = replace(states[1], stage="policy", seconds=50.0)
    # 300 steps are left at 2 a second: 150 s. The line is longer than the 40 columns and stays one line.
    assert shown(states)[1] == "policy  100/400  loss 0.654  35.2 clips/s  wait 12% mfu 40%  0:02:30 left"


def test_the_rest_is_told_from_the_present_pace():
    slow_after_fast = [replace(START, step=s, seconds=s / 100) for s in range(100)]
    slow_after_fast += [replace(START, step=100 + s, seconds=1.0 + s) for s in range(60)]
    assert shown(slow_after_fast)[-1].endswith("0:04:01 left")  # step 159 of 400 at 1 a second


def test_no_rest_is_told_without_a_pace_or_at_the_end():
    assert all("left" not in line for line in shown([START]))
    assert "left" not in shown([START, replace(START, step=400, seconds=10.0)])[-1]


def test_the_bar_of_a_long_run_fits_an_ordinary_terminal():
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True, color_system=None)
    with ProgressBar(console=console) as bar:
        bar.update(START)
        bar.update(
            ProgressState(
                step=12000,
                total_steps=50000,
                loss=0.654,
                clips_per_second=1235.2,
                wait_share=0.12,
                mfu=0.404,
                seconds=5000.0,
                stage="random",
            )
        )
    drawn = [line for line in text.getvalue().splitlines() if "╸" in line]
    assert drawn
    assert all("random" in line and "1235 clips/s" in line and line.endswith(" left") for line in drawn)


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_one_bar_and_a_last_line(width):
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=True, color_system=None)
    with ProgressBar(console=console) as bar:
        for step in (0, 100, 400):
            bar.update(replace(START, step=step, seconds=float(step)))
    last = text.getvalue().splitlines()[-1]
    assert "400/400" in last
    assert "\x1b[2K" in last  # the bar's line is erased, so that it does not stand above the last one
    assert text.getvalue().count("\n") <= 2


def test_an_exception_passes_and_the_last_state_is_still_told():
    text = io.StringIO()
    with pytest.raises(KeyboardInterrupt), ProgressBar(console=Console(file=text)) as bar:  # noqa: PT012
        bar.update(START)
        bar.update(replace(START, step=7))
        raise KeyboardInterrupt
    assert "7/400" in text.getvalue().splitlines()[-1]
