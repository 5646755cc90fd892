"""GPU slices for servers on this machine: cards, placement, the files of a slice, what its server sees, and its self-test.

options.py      what an administrator and a profile may say
cards.py        the cards that are shared, real or pretended
slices.py       gives slices out, counts them, makes and frees their files
inside.py       what a server sees of its slice
uses.py         what a slice was used for
watch.py        the watchdog: who goes around a limit
"""
