"""How a sandboxed server reaches the hub and the world, and is reached.

For the provider, in the order of use:

    egress = find_egress()                      # once: `.command`, or `.missing` says why there is none
    dirs = RunDirs(default_base(...))           # the server's folder on the host: `prepare`, `socket`, `remove`
    address = at_socket(...)                    # or `at_port`: URLs and ports, outside and inside
    plan = network_plan(...)                    # what the keeper gets as `network`
"""
