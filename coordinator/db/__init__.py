"""The database: tables, migrations, and the queries that the rest of the coordinator uses."""

__all__: list[str] = []
