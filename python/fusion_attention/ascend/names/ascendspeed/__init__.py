"""AscendSpeed on the CPU: `ascendspeed.ops` and `ascendspeed.te.ops`."""
