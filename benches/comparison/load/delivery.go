// Deliveries as HeyGen makes them: distinct bodies, signed, as whole HTTP requests, all made before a clock starts.
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
)

// path is where every system takes deliveries.
const path = "/webhooks/bench"

// delivery is one of them; no two have the same number.
type delivery struct {
	number  int
	request []byte
	body    []byte
}

// deliverer makes deliveries that were never made before.
type deliverer struct {
	secret []byte
	made   int
}

func (d *deliverer) next(count int) []delivery {
	deliveries := make([]delivery, count)
	for index := range deliveries {
		number := d.made + index
		body := bodyOf(number)
		signature := hmac.New(sha256.New, d.secret)
		signature.Write(body)
		request := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"+
			"signature: %s\r\ncontent-length: %d\r\n\r\n", path, hex.EncodeToString(signature.Sum(nil)), len(body))
		head := len(request)
		request = append(request, body...)
		deliveries[index] = delivery{number, request, request[head:]}
	}
	d.made += count
	return deliveries
}

const bodyStart = `{"event_id":"`

// bodyOf is the usual delivery, about 400 bytes; the number makes it unlike every other.
func bodyOf(number int) []byte {
	video := fmt.Sprintf("vid_%010d", number)
	return fmt.Appendf(nil, bodyStart+`%d","event_type":"avatar_video.success","event_data":{"video_id":"%s",`+
		`"url":"https://files.heygen.ai/video/%s.mp4?Expires=1790000000","gif_download_url":null,`+
		`"video_page_url":"https://app.heygen.com/videos/%s","video_share_page_url":null,"folder_id":"",`+
		`"callback_id":"order_%010d","callback_url":null},"created_at":"2026-03-25T12:05:00Z"}`, number, video, video, video, number)
}

// numberOf reads the number from a body, in the same way for every system.
func numberOf(body []byte) (int, error) {
	digits, _, _ := bytes.Cut(bytes.TrimPrefix(body, []byte(bodyStart)), []byte(`"`))
	return strconv.Atoi(string(digits))
}
