// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/gob"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/conclave-mls/conclave/core"
)

// A file is the magic line and then batches, each a frame:
//
//	uint32   length of the body
//	[32]byte SHA-256 of the body
//	uint32   CRC-32 of these 36 bytes
//	body     a core.Batch without expectations, by encoding/gob
//
// A frame that the file is too short for is one that was being written, by a process that
// was killed: nobody was told that it is durable. Nor of one that is all zeros to the end of
// the file: after a loss of power a file may have its length and not its bytes. What else
// is wrong is damage, at the end too, as somebody may have been told. Therefore the length
// has a sum of its own.
const (
	magic     = "conclave filestore 1\n"
	headerLen = 4 + sha256.Size + 4
)

// encode makes the frame of a batch.
func encode(b core.Batch) ([]byte, error) {
	w := bytes.NewBuffer(make([]byte, headerLen))
	if err := gob.NewEncoder(w).Encode(b); err != nil {
		return nil, err
	}
	frame := w.Bytes()
	seal(frame)
	return frame, nil
}

// seal fills in the header of a frame.
func seal(frame []byte) {
	body := frame[headerLen:]
	sum := sha256.Sum256(body)
	binary.BigEndian.PutUint32(frame, uint32(len(body))) // 64 MiB and what gob adds
	copy(frame[4:], sum[:])
	binary.BigEndian.PutUint32(frame[headerLen-4:], crc32.ChecksumIEEE(frame[:headerLen-4]))
}

// replay applies the batches of a file, and says how much of the file they are.
func replay(text []byte, records core.Keystore) (size int64, err error) {
	rest, ok := bytes.CutPrefix(text, []byte(magic))
	if !ok {
		return 0, fmt.Errorf("not a file of this program: %w", core.ErrDamaged)
	}
	for len(rest) >= headerLen {
		at := len(text) - len(rest)
		header := rest[:headerLen]
		if len(bytes.Trim(header, "\x00")) == 0 && len(bytes.Trim(rest, "\x00")) == 0 {
			break
		}
		if crc32.ChecksumIEEE(header[:headerLen-4]) != binary.BigEndian.Uint32(header[headerLen-4:]) {
			return 0, fmt.Errorf("at byte %d: %w", at, core.ErrDamaged)
		}
		n := int64(binary.BigEndian.Uint32(header))
		if n > int64(len(rest)-headerLen) {
			break
		}
		body := rest[headerLen : headerLen+n]
		if sha256.Sum256(body) != [sha256.Size]byte(header[4:headerLen-4]) {
			return 0, fmt.Errorf("at byte %d: %w", at, core.ErrDamaged)
		}
		var b core.Batch
		err := gob.NewDecoder(bytes.NewReader(body)).Decode(&b)
		if err == nil {
			err = records.Apply(context.Background(), core.Batch{Dels: b.Dels, Puts: b.Puts})
		}
		if err != nil {
			return 0, fmt.Errorf("at byte %d: %w: %w", at, core.ErrDamaged, err)
		}
		rest = rest[headerLen+n:]
	}
	return int64(len(text) - len(rest)), nil
}

// page is how many records are read at a time: at most 32 MiB.
const page = 32

// writeAll writes a file with all records, and says how long it is.
func writeAll(w io.Writer, records core.Keystore) (size int64, err error) {
	n, err := io.WriteString(w, magic)
	size = int64(n)
	for table := range 256 {
		q := core.Query{Table: core.Table(table), Limit: page}
		for err == nil {
			var answers [][]core.Record
			if answers, err = records.Read(context.Background(), []core.Query{q}); err != nil || len(answers[0]) == 0 {
				break
			}
			var b core.Batch
			for _, r := range answers[0] {
				b.Puts = append(b.Puts, core.Put{Table: q.Table, Key: r.Key, Value: r.Value, Version: r.Version})
				q.After = r.Key
			}
			var frame []byte
			if frame, err = encode(b); err == nil {
				n, err = w.Write(frame)
				size += int64(n)
			}
		}
	}
	return size, err
}
