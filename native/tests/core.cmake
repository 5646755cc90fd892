# Settings, region, accounting and allocation map: called directly, without a driver.
labspawner_unit_test(core_settings core_settings.c)
labspawner_unit_test(core_layout core_layout.c)
labspawner_unit_test(core_account core_account.c)
labspawner_unit_test(core_storm core_storm.c)
labspawner_unit_test(core_map core_map.c)
