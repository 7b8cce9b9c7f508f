"""The floor: the least that a whole checkout could cost in Python with everything durable.

It leaves the same rows in the same tables as the shop does, makes the same two calls at the gateway, and answers the
same requests; by bare asyncio, asyncpg and sqlite3, with no framework, and with as few statements as will do. It asks
nobody who they are and bounds nobody, it repeats nothing, and it is no way to run a shop.
"""
