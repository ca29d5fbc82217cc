"""The client side of a broker: calls with time-outs, methods that are fitted, answers that are read, market hours.

Rules of this room: it knows neither the engine nor the manager, and decides nothing about positions. What a broker
said becomes a value, or an error that says what could not be read.
"""
