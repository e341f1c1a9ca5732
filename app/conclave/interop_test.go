// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/conclave-mls/conclave/app/interop/mlsclient"
)

// The command says where it listens, answers there, and ends well.
func TestInteropServer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := real(ctx, t, "--json", "interop-server", "--listen", "127.0.0.1:0")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var at struct{ Address string }
	if err := json.Unmarshal(line, &at); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	conn, err := grpc.NewClient(at.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	name, err := mlsclient.NewMLSClientClient(conn).Name(ctx, &mlsclient.NameRequest{})
	if err != nil || name.GetName() != "conclave" {
		t.Errorf("name %q, %v", name.GetName(), err)
	}
	if _, stderr, code := output(t, "interop-server", "--listen", at.Address); code != 1 || !strings.Contains(stderr, "--listen 127.0.0.1:0") {
		t.Errorf("a second one there: exit code %d, %q", code, stderr)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted: %v", err)
	}
}
