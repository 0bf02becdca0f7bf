"""
Small socket apps for Twisted, and the production shell around them.

An app is a plain Twisted Protocol: each ``dataReceived`` call hands it one whole message, each
``transport.write`` is one whole reply. Everything else stands around it. Where to look:

- L{sockapps.apps}: the apps, one a file, server and client side together;
- L{sockapps.framing}: how bytes become messages;
- L{sockapps.stream}, L{sockapps.datagram}: what stands between an app and the network;
- L{sockapps.listening}: an endpoint description becomes a service;
- L{sockapps.settings}, L{sockapps.tap}: what C{twistd sockapps} reads;
- L{sockapps.client}: what a program calls; L{sockapps.cli}: what a person types;
- L{sockapps.interfaces}, L{sockapps.registry}: what an app declares, and how it is found.
"""
