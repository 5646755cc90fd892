from labspawner.service.console.app import main

main()
