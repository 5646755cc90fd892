from labspawner.service.desktop.app import main

main()
