"""The part of ascendspeed.te that is served."""
