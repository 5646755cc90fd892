"""How a pod gets its slice of a GPU: one strategy per cluster, behind `contract.Strategy`. Pure: no I/O, no clock."""
