// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// peerOps are the operations under the names that Core Crypto's benchmark has for them.
var peerOps = map[string]string{
	"empty transaction":                              EmptyTransaction,
	"open new database, init client, credential":     OpenNew,
	"key package, 1 a transaction":                   MakeKeyPackage,
	"key package, 100 a transaction (each)":          MakeKeyPackages,
	"create group":                                   CreateGroup,
	"add N-1 members to own group of 1 (one commit)": AddAll,
	"add N members to a group of N (one commit)":     AddAgain,
	"add 1 (commit)":                                 AddOne,
	"process add 1":                                  ProcessAddOne,
	"remove 1 (commit)":                              RemoveOne,
	"process remove 1":                               ProcessRemoveOne,
	"update (commit)":                                UpdateKeys,
	"process update":                                 ProcessUpdate,
	"join by welcome":                                JoinByWelcome,
	"join by external commit":                        JoinExternal,
	"process external commit":                        ProcessExternal,
	"encrypt 10 B":                                   Send10,
	"decrypt 10 B":                                   Receive10,
	"encrypt 1024 B":                                 Send1K,
	"decrypt 1024 B":                                 Receive1K,
	"encrypt 10240 B":                                Send10K,
	"decrypt 10240 B":                                Receive10K,
	"encrypt 1024 B, 100 a transaction (each)":       SendMany,
	"decrypt 1024 B, 100 a transaction (each)":       ReceiveMany,
	"encrypt 1024 B, 20 a transaction (each)":        SendMany,
	"decrypt 1024 B, 20 a transaction (each)":        ReceiveMany,
	"export secret (32)":                             ExportSecret,
	"member list":                                    ListMembers,
	"reopen database, init":                          OpenExisting,
	"first decrypt after reopening (10 B)":           FirstReceive,
	"wipe conversation":                              WipeConversation,
}

// peer has Core Crypto's benchmark measure the parts that it calls so, see its README.
func (b *bench) peer(ctx context.Context, of Row, parts string) ([]Row, error) {
	args := []string{"bench-cc.mjs", "--suite", strconv.Itoa(of.Suite), "--what", parts, "--sizes", strconv.Itoa(of.N),
		"--db", map[string]string{"memory": "mem", "sqlite": "disk"}[of.Store], "--dir", b.folder, "--pooldir", b.folder}
	cmd := exec.CommandContext(ctx, "node", args...)
	cmd.Dir = b.Peer
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("the benchmark of Core Crypto: %w\n%s", err, &stderr)
	}
	var rows []Row
	for line := range bytes.Lines(out) {
		var figure struct {
			Op                    string
			N                     int
			Ms, CPU, Wchar, Syscw float64
			Reps                  int
		}
		if err := json.Unmarshal(line, &figure); err != nil {
			return nil, fmt.Errorf("the benchmark of Core Crypto says %q: %w", line, err)
		}
		op, warm := strings.CutPrefix(figure.Op, "warm tree: ")
		r := of
		if r.Op = peerOps[op]; r.Op == "" {
			continue // of sizes, not of costs
		}
		if of.N > 0 {
			r.Tree = "bare"
		}
		if warm {
			r.Tree = "warm"
		}
		r.Samples = figure.Reps
		r.Wall, r.CPU = milliseconds(figure.Ms), milliseconds(figure.CPU)
		r.Written, r.Writes = int64(figure.Wchar), int64(figure.Syscw)
		rows = append(rows, r)
	}
	return rows, nil
}

func milliseconds(v float64) time.Duration { return time.Duration(v * float64(time.Millisecond)) }
