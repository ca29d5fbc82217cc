"""Stories of what is decided of levels."""

from __future__ import annotations

from decision_starts import D, Story, expired, monitored

from exitfsm.testing.given import (
    after,
    bar,
    given,
    opened,
    policy,
    reported,
    seen,
    triggered,
)

LEVELS: list[Story] = [
    (
        "levels by the average range",
        given(opened(atr="1.5", policy=policy(atr_levels={}))),
        [seen(100), seen("97.75", 120)],
    ),
    (
        "levels of a short by the average range",
        given(opened("short", atr="1.5", policy=policy(atr_levels={}))),
        [
            seen(100),
            seen("95.5", 120),
        ],
    ),
    (
        "an average range that is too wide",
        given(opened(atr=70, policy=policy(atr_levels={}, stop_loss=False))),
        [seen(100)],
    ),
    (
        "an average range that is just too wide",
        given(opened("short", entry=3, atr=1, policy=policy(atr_levels={}))),
        [seen(3)],
    ),
    (
        "no average range",
        given(opened(policy=policy(atr_levels={}, stop_loss=False, profit_taking=False))),
        [seen(100)],
    ),
    ("an average range of nothing", given(opened(atr=0, policy=policy(atr_levels={}))), [seen(100)]),
    (
        "a ladder",
        given(
            opened(
                policy=policy(
                    target_ladder={
                        "steps": [
                            {"after_seconds": 120, "threshold_pct": "1.5"},
                            {"after_seconds": 240, "threshold_pct": "0.5"},
                        ]
                    }
                )
            )
        ),
        [
            seen(100, 60),
            seen(100, 119),
            seen(100, 120),
            seen(101, 239),
            seen("100.5", 240),
        ],
    ),
    (
        "a ladder without a target before it",
        given(
            opened(
                "short",
                policy=policy(
                    profit_taking=False, target_ladder={"steps": [{"after_seconds": 120, "threshold_pct": 1}]}
                ),
            )
        ),
        [seen(50, 60), seen(99, 120)],
    ),
    (
        "a ladder and a time limit",
        given(
            opened(
                policy=policy(
                    time_limit={"max_seconds": 90},
                    target_ladder={
                        "steps": [{"after_seconds": 60, "threshold_pct": 1}, {"after_seconds": 120, "threshold_pct": 0}]
                    },
                )
            )
        ),
        [
            seen(100, 30),
            seen(100, 60),
            seen(100, 89),
            seen(100, 90),
        ],
    ),
    (
        "a step of the trail",
        given(
            opened(
                policy=policy(
                    profit_taking=False,
                    stop_loss=False,
                    trailing_stop={"activation_pct": 0, "trail_pct": "0.5", "step_pct": 1},
                )
            )
        ),
        [
            seen(100, 60),
            seen("100.9", 120),
            seen("101.1", 180),
            seen("100.595", 240),
        ],
    ),
    (
        "a step of a short's trail",
        given(
            opened(
                "short",
                policy=policy(
                    profit_taking=False,
                    stop_loss=False,
                    trailing_stop={"activation_pct": 0, "trail_pct": "0.5", "step_pct": 1},
                ),
            )
        ),
        [
            seen(100, 60),
            seen("99.1", 120),
            seen("98.9", 180),
            seen("99.4", 240),
        ],
    ),
    (
        "break even before the trail begins",
        given(
            opened(
                policy=policy(
                    break_even={"activation_pct": 1, "offset_pct": "0.25"},
                    trailing_stop={"activation_pct": 3, "trail_pct": 1},
                    profit_taking=False,
                    stop_loss=False,
                )
            )
        ),
        [seen(100, 60), seen(102, 120), seen(103, 180), seen(110, 240)],
    ),
    (
        "the trail begins before break even, for a short",
        given(
            opened(
                "short",
                policy=policy(
                    break_even={"activation_pct": 3, "offset_pct": "0.25"},
                    trailing_stop={"activation_pct": 1, "trail_pct": 1},
                    profit_taking=False,
                    stop_loss=False,
                ),
            )
        ),
        [seen(100, 60), seen(98, 120), seen(97, 180)],
    ),
    (
        "a wide bar on the range counts as the stop",
        given(opened(policy=policy(evaluate_on="range"))),
        [
            seen(bar(100, 60, low=99, high=102)),
        ],
    ),
    (
        "a short's bar on the range",
        given(opened("short", policy=policy(evaluate_on="range", stop_loss=False))),
        [
            seen(bar(100, 60, low=98, high=102)),
        ],
    ),
    (
        "bars that cannot be",
        monitored,
        [
            seen(bar(100, 60, open=0)),
            seen(bar(100, 61, low="NaN")),
            seen(bar(100, 62, high="Infinity")),
            seen(bar(100, 63, high=98, low=99)),
            seen(bar("1E+40", 64)),
            seen(bar("1E-40", 65)),
            seen(bar(100, 66, open=140), reference_price=D(100)),
            seen(bar(100, 67, open=130), reference_price=D(100)),
            seen(bar(100, 68), received_at=after(68 - 86400)),
            seen(bar(100, 69), received_at=after(69 - 86401)),
            seen(bar(77, 70, open=76), reference_price=D(100)),
            seen(bar(100, 71), reference_price=D("130.1")),
            seen(bar(100, 72), received_at=after(72), previous_bar_at=after(400)),
            seen(bar(100, 73), received_at=after(73), previous_bar_at=after(372)),
        ],
    ),
    ("a guard that is off", given(opened(policy=policy(price_guard=False))), [seen(140, reference_price=D(100))]),
    (
        "a fill is taken back between attempts, and the order stays over",
        expired,
        [
            reported("expired", 3, "98.5", at=75, corrected=True),
            reported("new", 3, at=76),
        ],
    ),
    (
        "an average range that is wide for the target alone",
        given(opened(atr=40, policy=policy(atr_levels={}))),
        [seen(100)],
    ),
    (
        "an average range that is wide for a short's target",
        given(opened("short", atr=40, policy=policy(atr_levels={}))),
        [
            seen(100),
        ],
    ),
    (
        "a ladder whose steps are over",
        given(opened(policy=policy(target_ladder={"steps": [{"after_seconds": 120, "threshold_pct": 1}]}))),
        [seen(100, 130)],
    ),
    (
        "a limit rests where there is no stop, beside a ladder",
        given(
            opened(
                policy=policy(
                    profit_taking={"order_type": "limit"},
                    stop_loss=False,
                    target_ladder={"steps": [{"after_seconds": 120, "threshold_pct": 1}]},
                )
            ),
            triggered(reason="profit_take", limit=102),
        ),
        [reported("new"), seen(50, 70), seen(50, 130)],
    ),
]
