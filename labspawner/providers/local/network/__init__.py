"""How a sandboxed server reaches the hub and the world, and is reached.

For the provider, in the order of use:

    egress = await find_egress()                # once: `.command`, or `.missing` says why there is none
    way = choose_way(...)                       # how the hub and the proxy reach this server: Way.SOCKET or Way.PORT
    place = RunDir(...)                         # its folder on the host; prepare, publish, remove
    address = Address.of(way, ...)              # URLs, environment, arguments of the server
    plan = network_plan(...)                    # what the keeper gets as `network`
"""
