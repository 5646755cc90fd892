from labspawner.culler.app import Culler

Culler.launch_instance()
