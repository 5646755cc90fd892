# Core limiter: one program per module, a case per argument.
labspawner_unit_test(limit_bucket limit_bucket.c)
labspawner_unit_test(limit_node limit_node.c)
labspawner_unit_test(limit_simulation limit_simulation.c)
labspawner_test(limit_driver limit_driver.c ../bench/driver.c)
