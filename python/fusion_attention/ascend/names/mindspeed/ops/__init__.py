"""The operators of mindspeed that are served."""
