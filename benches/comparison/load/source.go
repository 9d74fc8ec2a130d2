// Where the consumer gets events from. Owns a consumer for each kind of source, as a backend would write it in Go:
//
//	grpc://HOST:PORT                hookstream's stream; the consumer keeps its own place
//	grpc://HOST:PORT/SUBSCRIPTION   hookstream keeps the place; every event is acknowledged
//	nats://HOST:PORT/STREAM         a durable pull consumer; every event is acknowledged
//	redis://HOST:PORT/STREAM        a consumer group; every event is acknowledged
//	http://HOST:PORT                bodies a line each, as floor/ sends them
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/url"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "comparison/hookstreamv1"
)

// unacknowledgedMax is how many events are under way at most: what JetStream allows a consumer if nobody says otherwise.
const unacknowledgedMax = 1000

// consumer is the name of the consumer where it needs one.
const consumer = "backend"

// follow calls `arrived` with the body of every event from now on; it returns when nothing is missed any more.
func follow(ctx context.Context, address string, arrived func([]byte)) error {
	parsed, err := url.Parse(address)
	if err != nil {
		return err
	}
	switch parsed.Scheme {
	case "grpc":
		return followHookstream(ctx, parsed, arrived)
	case "nats":
		return followJetStream(ctx, parsed, arrived)
	case "redis":
		return followRedis(ctx, parsed, arrived)
	case "http":
		return followLines(address, arrived)
	}
	return fmt.Errorf("no source: %s", address)
}

func followHookstream(ctx context.Context, address *url.URL, arrived func([]byte)) error {
	connection, err := grpc.NewClient(address.Host, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	hooks, subscription := pb.NewHookstreamServiceClient(connection), streamOf(address)
	frames, err := hooks.SubscribeEvents(ctx, &pb.SubscribeEventsRequest{Subscription: subscription})
	if err != nil {
		return err
	}
	// The first frame says that the stream is open, and from where.
	if _, err := frames.Recv(); err != nil {
		return err
	}
	acknowledge := acknowledging(func(ids []string) error {
		_, err := hooks.AcknowledgeEvents(ctx, &pb.AcknowledgeEventsRequest{
			Subscription: subscription,
			AckIds:       ids,
			Outcome:      &pb.AcknowledgeEventsRequest_Done_{Done: &pb.AcknowledgeEventsRequest_Done{}},
		})
		return err
	})
	go func() {
		for {
			frame, err := frames.Recv()
			check(err)
			if event := frame.GetEvent(); event != nil {
				arrived(event.RawBody)
				if frame.AckId != "" {
					acknowledge <- frame.AckId
				}
			}
		}
	}()
	return nil
}

func followJetStream(ctx context.Context, address *url.URL, arrived func([]byte)) error {
	client, err := openJetStream(address)
	if err != nil {
		return err
	}
	name := streamOf(address)
	stream, err := client.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{name}})
	if err != nil {
		return err
	}
	durable, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Durable:       consumer,
		AckPolicy:     jetstream.AckExplicitPolicy,
		MaxAckPending: unacknowledgedMax,
	})
	if err != nil {
		return err
	}
	_, err = durable.Consume(func(message jetstream.Msg) {
		arrived(message.Data())
		check(message.Ack())
	})
	return err
}

func followRedis(ctx context.Context, address *url.URL, arrived func([]byte)) error {
	client, stream := redis.NewClient(&redis.Options{Addr: address.Host}), streamOf(address)
	if err := client.XGroupCreateMkStream(ctx, stream, consumer, "$").Err(); err != nil {
		return err
	}
	acknowledge := acknowledging(func(ids []string) error {
		return client.XAck(ctx, stream, consumer, ids...).Err()
	})
	read := &redis.XReadGroupArgs{Group: consumer, Consumer: consumer, Streams: []string{stream, ">"}, Count: unacknowledgedMax}
	go func() {
		for {
			streams, err := client.XReadGroup(ctx, read).Result()
			check(err)
			for _, message := range streams[0].Messages {
				body, _ := message.Values["body"].(string)
				arrived([]byte(body))
				acknowledge <- message.ID
			}
		}
	}()
	return nil
}

// acknowledging takes ids, and acknowledges all that wait at a time, so that reading goes on meanwhile.
func acknowledging(acknowledge func([]string) error) chan<- string {
	waiting := make(chan string, unacknowledgedMax)
	go func() {
		for id := range waiting {
			ids := []string{id}
			for range len(waiting) {
				ids = append(ids, <-waiting)
			}
			check(acknowledge(ids))
		}
	}()
	return waiting
}

func followLines(address string, arrived func([]byte)) error {
	answer, err := http.Get(address + "/bodies")
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	lines := bufio.NewScanner(answer.Body)
	go func() {
		for lines.Scan() {
			arrived(lines.Bytes())
		}
		log.Fatalf("%s ended: %v", address, lines.Err())
	}()
	return nil
}
