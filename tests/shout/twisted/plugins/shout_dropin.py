from sockapps.registry import SocketApp

shout = SocketApp(
    name="shout",
    summary="says every message back, louder",
    listens="tcp:7070:interface=127.0.0.1",
    factory="shout.ShoutFactory",
    client="shout.ShoutClient",
)
