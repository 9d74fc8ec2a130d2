// The least that takes webhooks durably: verifies each, appends it to a plain file with one sync for all that wait, answers,
// and sends it to whoever follows. Owns no index, no place to go on from, no second look at a body.
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"syscall"
)

const bodyBytesMax = 1 << 20

// appended is a body that waits for its sync.
type appended struct {
	body    []byte
	durable chan struct{}
}

type server struct {
	secret    []byte
	appends   chan appended
	followers chan chan []byte
}

func main() {
	listen := flag.String("listen", "", "the `HOST:PORT` to listen on")
	secretFile := flag.String("secret-file", "", "a `FILE` with the secret that signs deliveries")
	path := flag.String("file", "", "the `FILE` that bodies are appended to, a line each")
	flag.Parse()
	secret, err := os.ReadFile(*secretFile)
	check(err)
	file, err := os.OpenFile(*path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	check(err)
	serving := server{secret, make(chan appended, 1024), make(chan chan []byte)}
	go serving.write(file)
	http.HandleFunc("POST /webhooks/bench", serving.take)
	http.HandleFunc("GET /bodies", serving.follow)
	check(http.ListenAndServe(*listen, nil))
}

func (s server) take(response http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(response, request.Body, bodyBytesMax))
	if err != nil {
		http.Error(response, "not read", http.StatusBadRequest)
		return
	}
	expected := hmac.New(sha256.New, s.secret)
	expected.Write(body)
	presented, _ := hex.DecodeString(request.Header.Get("Signature"))
	if !hmac.Equal(presented, expected.Sum(nil)) {
		http.Error(response, "not signed", http.StatusUnauthorized)
		return
	}
	waiting := appended{append(body, '\n'), make(chan struct{})}
	s.appends <- waiting
	<-waiting.durable
	io.WriteString(response, "stored")
}

// write appends whatever waits with one write and one sync.
func (s server) write(file *os.File) {
	var followers []chan []byte
	for {
		select {
		case follower := <-s.followers:
			followers = append(followers, follower)
		case first := <-s.appends:
			batch, lines := []appended{first}, bytes.Clone(first.body)
			for range len(s.appends) {
				next := <-s.appends
				batch, lines = append(batch, next), append(lines, next.body...)
			}
			_, err := file.Write(lines)
			check(err)
			check(syscall.Fdatasync(int(file.Fd())))
			for _, waiting := range batch {
				close(waiting.durable)
			}
			for _, follower := range followers {
				follower <- lines
			}
		}
	}
}

// follow sends what is appended from now on. The program ends with its follower: it holds nothing back for one that is gone.
func (s server) follow(response http.ResponseWriter, _ *http.Request) {
	batches := make(chan []byte, 1024)
	s.followers <- batches
	for {
		check(http.NewResponseController(response).Flush())
		_, err := response.Write(<-batches)
		check(err)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
