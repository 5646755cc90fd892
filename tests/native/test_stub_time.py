"""The stub driver's time: kernels last, cost no CPU, and the card takes turns. Lengths are the card's own, so a slow machine
changes nothing about them; turns are equal where both programs get a processor, so `make test` runs these alone."""

from __future__ import annotations

import pytest
from native.stub_guests import Guests

from labspawner.testing.waiting import eventually_sync

MS = 1_000_000

pytestmark = pytest.mark.alone


@pytest.fixture
def guests(native, stub_state) -> Guests:
    return Guests(stubctl=native.stubctl, environment=stub_state)


def test_a_kernel_takes_the_time_in_its_name_and_no_cpu(guests):
    with guests.running(
        """
        context()
        kernel = function("us_100000")
        before = time.process_time()
        for _ in range(10):
            ok(launch(kernel))
        ok(cu.cuCtxSynchronize())
        say(time.process_time() - before)
        wait_for_line()
        """
    ) as guest:
        cpu_s = guest.says()
        process = guests.card()["processes"][0]

    assert process["busy_ns"] == 1000 * MS
    assert process["launches"] == 10
    assert cpu_s < 0.5


def test_events_tell_when_the_card_got_there(guests):
    between, order = guests.run(
        """
        context()
        on, kernel, first, last = stream(), function("us_50000"), event(), event()
        ms, codes = c_float(), []
        codes.append(cu.cuEventElapsedTime(byref(ms), first, last))
        ok(launch(kernel, on))
        ok(cu.cuEventRecord(first, on))
        ok(launch(kernel, on))
        ok(cu.cuEventRecord(last, on))
        codes.append(cu.cuEventQuery(last))
        codes.append(cu.cuStreamQuery(on))
        ok(cu.cuEventSynchronize(last))
        codes += [cu.cuEventQuery(first), cu.cuEventQuery(last), cu.cuStreamQuery(on)]
        ok(cu.cuEventElapsedTime(byref(ms), first, last))
        say([ms.value, codes])
        """
    )

    assert between >= 50  # more where the launching thread was kept waiting between the two
    assert order == [400, 600, 600, 0, 0, 0]


def test_two_processes_get_equal_turns(guests):
    text = """
        context()
        kernel = function("us_30000000")
        wait_for_line()
        ok(launch(kernel))
        say(0)
        wait_for_line()
        """
    with guests.running(text) as a, guests.running(text) as b:
        for guest in (a, b):
            guest.tell()
            guest.says()
        first = {p["pid"]: p["busy_ns"] for p in guests.card()["processes"]}

        def later() -> dict[int, int] | None:
            now = {p["pid"]: p["busy_ns"] for p in guests.card()["processes"]}
            return now if now[a.pid] - first[a.pid] > 200 * MS else None

        second = eventually_sync(later, 30)

    got = [second[guest.pid] - first[guest.pid] for guest in (a, b)]
    assert abs(got[0] - got[1]) <= 4 * MS


def test_the_queue_of_a_killed_process_is_gone(guests):
    with guests.running('context(); launch(function("us_3600000000")); say(0); wait_for_line()') as guest:
        guest.says()

    done = guests.run(
        """
        context()
        ok(launch(function("us_1000")))
        ok(cu.cuCtxSynchronize())
        say(True)
        """
    )

    assert done is True


def test_a_full_queue_makes_the_launch_wait(guests):
    with guests.running(
        """
        context()
        kernel = function("us_20000000")
        for n in range(1100):
            if n == 1000:
                say(n)
            ok(launch(kernel))
        say("all")
        """
    ) as guest:
        assert guest.says() == 1000
        launched = eventually_sync(lambda: (n := guest_launches(guests)) > 1024 and n, 30)

    assert launched == 1025  # the one that found the queue full is in it, and its caller waits


def guest_launches(guests: Guests) -> int:
    return guests.card()["processes"][0]["launches"]


def test_host_functions_run_in_order_when_the_card_got_there(guests):
    said = guests.run(
        """
        context()
        on, kernel, ran = stream(), function("us_20000"), []
        HOST = ctypes.CFUNCTYPE(None, c_void_p)
        CALLBACK = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_void_p)
        calls = [HOST(lambda data: ran.append(1)), CALLBACK(lambda s, status, data: ran.append([2, status]))]
        ok(launch(kernel, on))
        ok(cu.cuLaunchHostFunc(on, calls[0], None))
        ok(launch(kernel, on))
        ok(cu.cuStreamAddCallback(on, calls[1], None, 0))
        ok(cu.cuStreamSynchronize(on))
        say(ran)
        """
    )

    assert said == [1, [2, 0]]


def test_a_captured_graph_takes_the_time_of_its_kernels(guests):
    with guests.running(
        """
        context()
        on, kernel, graph, run = stream(), function("us_10000"), c_void_p(), c_void_p()
        ok(cu.cuStreamBeginCapture_v2(on, 1))
        for _ in range(5):
            ok(launch(kernel, on))
        ok(cu.cuStreamEndCapture(on, byref(graph)))
        say(0)
        wait_for_line()
        ok(cu.cuGraphInstantiateWithFlags(byref(run), graph, c_uint64(0)))
        for _ in range(3):
            ok(cu.cuGraphLaunch(run, on))
        ok(cu.cuStreamSynchronize(on))
        say(0)
        wait_for_line()
        """
    ) as guest:
        guest.says()
        captured = guests.card()["busy_ns"]
        guest.tell()
        guest.says()
        launched = guests.card()["busy_ns"]

    assert (captured, launched) == (0, 150 * MS)


def test_while_a_stream_captures_globally_others_may_not_ask(guests):
    said = guests.run(
        """
        context()
        on, done, mode, graph = stream(), event(), c_int(2), c_void_p()
        ok(cu.cuEventRecord(done, None))
        ok(cu.cuStreamBeginCapture_v2(on, 0))
        ok(cu.cuThreadExchangeStreamCaptureMode(byref(mode)))
        relaxed = cu.cuEventQuery(done)
        ok(cu.cuThreadExchangeStreamCaptureMode(byref(mode)))
        fine = cu.cuStreamIsCapturing(on, byref(mode)), mode.value
        refused = [cu.cuEventQuery(done), alloc(1)[0], cu.cuCtxSynchronize(), cu.cuStreamSynchronize(on)]
        say([relaxed, fine, refused, cu.cuStreamEndCapture(on, byref(graph)), cu.cuEventQuery(done)])
        """
    )

    assert said == [0, [0, 1], [900, 900, 900, 900], 901, 0]


def test_memory_of_a_graph_is_booked_when_it_runs_and_kept_until_trimmed(guests):
    said = guests.run(
        """
        context()
        on, graph, run, block = stream(), c_void_p(), c_void_p(), c_uint64()
        free, total = c_size_t(), c_size_t()
        def held():
            ok(cu.cuMemGetInfo_v2(byref(free), byref(total)))
            return (total.value - free.value) >> 20
        ok(cu.cuStreamBeginCapture_v2(on, 2))
        ok(cu.cuMemAllocAsync(byref(block), c_size_t(10 << 20), on))
        ok(launch(function("us_10"), on))
        ok(cu.cuMemFreeAsync(block, on))
        ok(cu.cuStreamEndCapture(on, byref(graph)))
        ok(cu.cuGraphInstantiateWithFlags(byref(run), graph, c_uint64(0)))
        made = held()
        ok(cu.cuGraphLaunch(run, on))
        ok(cu.cuGraphLaunch(run, on))
        ok(cu.cuStreamSynchronize(on))
        ran = held()
        ok(cu.cuDeviceGraphMemTrim(0))
        say([made, ran, held()])
        """
    )

    assert said == [0, 10, 0]


def test_a_cooperative_launch_must_fit_the_card(guests):
    said = guests.run(
        """
        context()
        kernel = function("us_1")
        say([cu.cuLaunchCooperativeKernel(kernel, n, 1, 1, 32, 1, 1, 0, None, None) for n in (128, 100000)])
        """
    )

    assert said == [0, 720]
