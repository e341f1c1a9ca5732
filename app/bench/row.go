// SPDX-License-Identifier: Apache-2.0

package bench

import "time"

// The systems that are measured.
const (
	Ours = "conclave"
	Peer = "core-crypto" // Wire's
)

// A Row is what one operation costs one system: medians of its samples.
type Row struct {
	System  string        `json:"system"` // Ours or Peer
	Suite   int           `json:"suite"`
	Store   string        `json:"store"`            // "memory", "sqlite" or "postgres"
	Signer  string        `json:"signer,omitempty"` // "hsm", or empty: in software
	Tree    string        `json:"tree,omitempty"`   // "bare" or "warm", or empty: there is no group
	Op      string        `json:"op"`
	N       int           `json:"n"`       // members; 0: there is no group
	Samples int           `json:"samples"` // of all rounds
	Wall    time.Duration `json:"wall_ns"`
	CPU     time.Duration `json:"cpu_ns"` // of all threads

	Written    int64 `json:"written_bytes,omitempty"` // given to write calls
	Writes     int64 `json:"write_calls,omitempty"`
	Applied    int64 `json:"applied_bytes,omitempty"` // handed to Apply: keys and values
	Allocs     int64 `json:"allocs,omitempty"`
	AllocBytes int64 `json:"alloc_bytes,omitempty"`
	Resident   int64 `json:"resident_bytes,omitempty"` // of the process, afterwards
}
