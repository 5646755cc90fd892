"""The screens of the double's VMs: RFB 3.8 with VNC authentication, as vncwebsocket hands it on.

    with PveDouble(...) as pve:
        screen = pve.screens.screen(vmid)
        screen.keys          # (down, keysym) of each key event, from all clients
        screen.pointers      # (buttons, x, y)
        screen.cut_texts     # what clients put into the clipboard
        screen.connections   # how many clients were let in until now; screen.open: now
        screen.pixel(x, y)   # (red, green, blue); BACKGROUND where nothing is drawn
        screen.typed         # the characters of the keys that went down, also drawn
        screen.drop()        # end all its connections
        screen.flood(bytes)  # send that many bytes of updates, as fast as clients take them; screen.sent: how many went out

The picture: BACKGROUND, the VM's name in white, a row of coloured squares that follow from its id, what was typed, and a
yellow square wherever a button was pressed. It has no clock in it. A screen keeps all that until its VM is stopped.
Rights, ports, tickets and the window of 10 s are the double's, not the console's.
"""

from __future__ import annotations

from labspawner.testing.pve.console.canvas import BACKGROUND, HEIGHT, INK, MARK, WIDTH
from labspawner.testing.pve.console.screens import Screen, Screens

__all__ = ["BACKGROUND", "HEIGHT", "INK", "MARK", "WIDTH", "Screen", "Screens"]
