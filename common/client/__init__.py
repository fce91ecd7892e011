"""Both clients: `common.client.sync` on pika, `common.client.aio` on aio-pika, and their core without I/O."""
