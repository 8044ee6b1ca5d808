"""mindspeed on the CPU: its attention operators and the builders beneath them."""
