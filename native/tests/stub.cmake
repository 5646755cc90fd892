# The stub driver itself: programs that are linked with it.
labspawner_test(stub_threads stub_threads.c)
target_link_libraries(stub_threads PRIVATE stub_cuda stub_nvml)
