// Where deliveries go: http://HOST:PORT, or nats://HOST:PORT/STREAM for the body alone. Owns both clients; the one of HTTP does
// as little as it can, because it shares the cores with what it measures.
package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// target is where deliveries go.
type target interface {
	// open makes a sender for use by one goroutine at a time.
	open() (sender, error)
}

// sender sends deliveries, one after the other.
type sender interface {
	// send returns nil when the delivery was accepted.
	send(delivery) error
	close()
}

func targetOf(address string) (target, error) {
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	switch parsed.Scheme {
	case "http":
		return httpTarget{parsed.Host}, nil
	case "nats":
		stream, err := openJetStream(parsed)
		return publisher{stream, streamOf(parsed)}, err
	}
	return nil, fmt.Errorf("no target: %s", address)
}

// httpTarget takes deliveries at this address.
type httpTarget struct {
	address string
}

// httpConnection is kept alive from one delivery to the next.
type httpConnection struct {
	address    string
	connection net.Conn
	reader     *bufio.Reader
}

func (t httpTarget) open() (sender, error) {
	opened := &httpConnection{address: t.address}
	return opened, opened.connect()
}

func (c *httpConnection) connect() (err error) {
	c.connection, err = net.Dial("tcp", c.address)
	c.reader = bufio.NewReader(c.connection)
	return err
}

func (c *httpConnection) send(delivery delivery) error {
	if c.connection == nil {
		if err := c.connect(); err != nil {
			return err
		}
	}
	status, err := c.post(delivery.request)
	if err != nil {
		c.close()
		return err
	}
	if status < 200 || status > 299 {
		return fmt.Errorf("answered %d", status)
	}
	return nil
}

// post reads of the answer what has to be known: its status, and where it ends.
func (c *httpConnection) post(request []byte) (status int, err error) {
	if _, err := c.connection.Write(request); err != nil {
		return 0, err
	}
	line, err := c.reader.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if fields := bytes.Fields(line); len(fields) > 1 {
		status, _ = strconv.Atoi(string(fields[1]))
	}
	length := -1
	for {
		line, err := c.reader.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		name, value, isField := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		if !isField {
			break
		}
		if bytes.EqualFold(name, []byte("content-length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, err
			}
		}
	}
	if length < 0 {
		return 0, fmt.Errorf("answered %d without a length", status)
	}
	_, err = c.reader.Discard(length)
	return status, err
}

func (c *httpConnection) close() {
	if c.connection != nil {
		c.connection.Close()
		c.connection = nil
	}
}

// publisher sends bodies to a stream, with any number of them on the way over its one connection.
type publisher struct {
	stream  jetstream.JetStream
	subject string
}

func (p publisher) open() (sender, error) {
	return p, nil
}

func (p publisher) send(delivery delivery) error {
	_, err := p.stream.Publish(context.Background(), p.subject, delivery.body)
	return err
}

func (p publisher) close() {}

func openJetStream(address *url.URL) (jetstream.JetStream, error) {
	connection, err := nats.Connect("nats://" + address.Host)
	if err != nil {
		return nil, err
	}
	return jetstream.New(connection)
}

func streamOf(address *url.URL) string {
	return strings.TrimPrefix(address.Path, "/")
}
