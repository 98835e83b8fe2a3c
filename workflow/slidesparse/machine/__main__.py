"""Print the hardware key of this machine."""

from slidesparse.machine import hardware

print(hardware.key())
