"""What is remembered: migrations, and typed stores on Postgres."""
