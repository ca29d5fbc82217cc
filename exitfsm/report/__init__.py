"""Pages for people: one self-contained HTML file for a position, and one that lists a whole store.

Rules of this room: a page is a string made from a log and bars; the same log gives the same bytes. It loads nothing,
connects to nothing, and shows text from outside as text.
"""

from exitfsm.report.index import index_page, index_pages
from exitfsm.report.page import page_name, position_page
from exitfsm.report.story import Chain, Story, chain_of, story_of
from exitfsm.report.supposing import Supposed, suppose

__all__ = [
    "Chain",
    "Story",
    "Supposed",
    "chain_of",
    "index_page",
    "index_pages",
    "page_name",
    "position_page",
    "story_of",
    "suppose",
]
