"""The command line, as a user and as a program sees it: what is printed where, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

from exitfsm import ExitPolicy, ExitStore, Side, __version__, load_config, mermaid
from exitfsm.cli import BAD_INPUT, DEFECT, FINDING, PIPE_CLOSED, main, screen
from exitfsm.cli.words import _WORDS, in_words
from exitfsm.events import POSITION_EVENTS, AlarmRaised, PositionOpened, PriceJump if False else POSITION_EVENTS
