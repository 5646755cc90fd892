"""GPU slices: which cards there are, what a slice may use, and whether it holds.

cards.py, nvml.py          which cards there are, and who uses them
limits.py, region.py       what a slice may use; what it uses
folder.py                  the files of one slice, and where they stand inside a sandbox
library.py, pretend.py     the library that holds the limits; the driver that pretends to have cards
selftest.py, verdict.py    a program that runs inside a slice and says whether it holds; what it came to
register.py                the slices of this user that no hub knows of
watchdog.py, dmem.py       what is left when a program goes around the library
words.py                   what a student reads
agent/                     the same for a node of a Kubernetes cluster
"""
