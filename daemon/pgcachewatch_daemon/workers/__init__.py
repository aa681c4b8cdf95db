"""More cores: one process holds the LISTEN connection, several serve clients (`pgcachewatch serve --workers N`).

    primary   PostgresSource -> Intake -> position -> Journal ==link==> each worker
    worker    link -> Hub, History -> outboxes -> clients; the same port as the others

The primary numbers every change and decides what is believed, so all workers agree on positions, and a client resumes
at any of them. Workers match, encode and write: that is where the time goes. See `primary` and `worker`; what travels
between them is in `messages`.
"""
