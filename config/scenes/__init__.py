"""A living system for a newcomer: merchants, customers and colleagues at work, through the doors that everybody uses."""
