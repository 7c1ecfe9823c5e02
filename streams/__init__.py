"""What happens: the service on Kafka, its metrics, its registry and its command line."""
