// Package control serves a host's commands over a byte stream, for godwitctl.
//
//	client                                   server
//	"godwit-control/1\n"  ----------------->
//	                      <-----------------  "godwit-control/1 NAME\n"
//	request {args, json, input}  --------->
//	input bytes / cancel  ----------------->   (while the command runs)
//	                      <-----------------  output bytes ...
//	                      <-----------------  alive, every few seconds
//	alive, in answer  -------------------->
//	                      <-----------------  done {error}
//
// One command a connection. Everything after the greeting is frames: type u8,
// length u32 little-endian, payload; zero is no type. Either side ends the
// connection at the first thing it does not understand; when the client goes
// away its command is cancelled.
//
// There is no authentication in this version, so a host listens only when its
// command line says so by name (control=insecure-tcp).
package control

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// DefaultPort is where a host listens unless told otherwise.
const DefaultPort = 7480

const greeting = "godwit-control/1"

type frameType uint8

const (
	frameRequest frameType = 1 + iota
	frameInput
	frameCancel
	frameOutput
	frameAlive
	frameDone
	frameRaw // payload 0 or 1: the client's terminal passes keys on
)

const maxFrame = 256 << 10

// Time-outs of both sides.
const (
	writeTimeout = 20 * time.Second
	aliveEvery   = 3 * time.Second
	aliveTimeout = 20 * time.Second
	helloTimeout = 10 * time.Second
)

type request struct {
	Args  []string `json:"args"`
	JSON  bool     `json:"json,omitempty"`
	Input bool     `json:"input,omitempty"` // the client has a keyboard
}

type done struct {
	Error string `json:"error,omitempty"`
	Usage bool   `json:"usage,omitempty"` // the error is in how the command was called
}

func writeFrame(c net.Conn, t frameType, payload []byte) error {
	if len(payload) > maxFrame {
		return fmt.Errorf("control: a frame of %d bytes exceeds %d", len(payload), maxFrame)
	}
	b := make([]byte, 5, 5+len(payload))
	b[0] = byte(t)
	binary.LittleEndian.PutUint32(b[1:], uint32(len(payload)))
	c.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := c.Write(append(b, payload...))
	return err
}

func readFrame(r io.Reader) (frameType, []byte, error) {
	var h [5]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	t, n := frameType(h[0]), binary.LittleEndian.Uint32(h[1:])
	if t < frameRequest || t > frameRaw {
		return 0, nil, fmt.Errorf("%w: unknown frame type %d", errBroken, t)
	}
	if n > maxFrame {
		return 0, nil, fmt.Errorf("%w: a frame claims %d bytes, more than %d", errBroken, n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, err
	}
	return t, b, nil
}

// readLine reads a greeting without reading past it.
func readLine(r io.Reader) (string, error) {
	var b []byte
	var c [1]byte
	for len(b) < 128 {
		if _, err := io.ReadFull(r, c[:]); err != nil {
			return "", err
		}
		if c[0] == '\n' {
			return string(b), nil
		}
		b = append(b, c[0])
	}
	return string(b), errStranger
}

func checkGreeting(line string) error {
	if line == greeting || strings.HasPrefix(line, greeting+" ") {
		return nil
	}
	if strings.HasPrefix(line, "godwit-control/") {
		return fmt.Errorf("the other side speaks %q, this one %s; use matching releases", line, greeting)
	}
	return errStranger
}

var (
	errStranger = errors.New("that is not a Godwit control port")
	errBroken   = errors.New("the other side breaks the protocol")
)

// clip shows the beginning of what a stranger sent.
func clip(line string) string {
	const most = 32
	if len(line) > most {
		return fmt.Sprintf("%q...", line[:most])
	}
	return fmt.Sprintf("%q", line)
}
