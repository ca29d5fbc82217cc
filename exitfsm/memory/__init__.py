"""What a live shell remembers between two looks at the broker's books. It decides nothing: that is done in `holdings`.

Rules of this room: no task, no I/O, no manager; all of it is used on one event loop.
"""
