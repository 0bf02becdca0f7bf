// Go: net, a goroutine per connection, bufio on both sides.
//
// Usage: net tcp|tls|udp PORT [PEM]
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"log"
	"net"
	"os"
)

func echo(connection net.Conn) {
	defer connection.Close()
	reader, writer := bufio.NewReader(connection), bufio.NewWriter(connection)
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil {
			return
		}
		writer.WriteString("Echo=>")
		writer.Write(line)
		// The last whole line of what was read: its replies go out together.
		if rest, _ := reader.Peek(reader.Buffered()); bytes.IndexByte(rest, '\n') < 0 {
			if writer.Flush() != nil {
				return
			}
		}
	}
}

func upper(connection *net.UDPConn) {
	buffer := make([]byte, 65536)
	for {
		count, peer, err := connection.ReadFromUDPAddrPort(buffer)
		if err == nil {
			connection.WriteToUDPAddrPort(bytes.ToUpper(buffer[:count]), peer)
		}
	}
}

func listen(transport, address string) (net.Listener, error) {
	if transport == "tcp" {
		return net.Listen("tcp", address)
	}
	pair, err := tls.LoadX509KeyPair(os.Args[3], os.Args[3])
	if err != nil {
		return nil, err
	}
	return tls.Listen("tcp", address, &tls.Config{Certificates: []tls.Certificate{pair}})
}

func main() {
	transport, address := os.Args[1], "127.0.0.1:"+os.Args[2]
	if transport == "udp" {
		where, err := net.ResolveUDPAddr("udp", address)
		if err != nil {
			log.Fatal(err)
		}
		connection, err := net.ListenUDP("udp", where)
		if err != nil {
			log.Fatal(err)
		}
		upper(connection)
	}
	listener, err := listen(transport, address)
	if err != nil {
		log.Fatal(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go echo(connection)
	}
}
