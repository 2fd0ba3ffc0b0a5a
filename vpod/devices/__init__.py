"""The board's devices, one file each. All have the same face: `size`, `read`, `write`, `save`, `restore`.

`save()` gives a dictionary that JSON can hold, and `restore()` takes it back and believes nothing in it (see
`vpod.devices.fields`). A device knows RAM and its interrupt line; it never sees the machine.
"""
