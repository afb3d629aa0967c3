PARENT = "TENSHOT_PARENT"  # an environment variable: for which process id a fork server works, however early that ends
