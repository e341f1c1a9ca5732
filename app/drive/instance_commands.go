// SPDX-License-Identifier: Apache-2.0

package drive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/core/client"
	"github.com/conclave-mls/conclave/providers/audit"
)

// buildVersion is that of the module, as the Go tools wrote it into the program.
func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

func version(context.Context, *engine, *request) (result, error) {
	return result{"version": buildVersion(), "build": result{"go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}}, nil
}

// levels are Core Crypto's names for what the log tells.
var levels = map[string]slog.Level{
	"Off": slog.LevelError + 4, "Error": slog.LevelError, "Warn": slog.LevelWarn, "Info": slog.LevelInfo,
	"Debug": slog.LevelDebug, "Trace": slog.LevelDebug - 4, "": slog.LevelDebug,
}

func setLevel(_ context.Context, e *engine, r *request) (result, error) {
	level, ok := levels[r.Level]
	if !ok {
		return nil, bad("level: %q; there is Off, Error, Warn, Info, Debug and Trace", r.Level)
	}
	e.level.Set(level)
	return nil, nil
}

func closeInstance(ctx context.Context, e *engine, r *request) (result, error) {
	i, err := e.instance(r)
	if err != nil {
		return nil, err
	}
	delete(e.instances, r.Instance)
	return nil, i.close(ctx)
}

func addCredential(ctx context.Context, i *instance, r *request) (result, error) {
	if r.Suite == 0 {
		return nil, bad("ciphersuite: a number expected")
	}
	suite, err := i.suite(r)
	if err != nil {
		return nil, err
	}
	var made client.Credential
	err = i.transact(ctx, func(ctx context.Context, tx *client.Transaction) error {
		made, err = tx.NewCredential(ctx, suite.ID())
		return err
	})
	if err != nil {
		return nil, err
	}
	i.defaults = append(i.defaults, suite.ID())
	hash := sha256.Sum256(made.SignatureKey)
	return result{"publicKeyHash": hash[:]}, nil
}

// listCredentials lists the credentials for each suite of the instance: those of init
// and of addCredential. Suites with one signature scheme share them.
func listCredentials(ctx context.Context, i *instance, _ *request) (result, error) {
	list := []result{}
	seen := map[core.SuiteID]bool{}
	for _, suite := range i.defaults {
		if seen[suite] {
			continue
		}
		seen[suite] = true
		own, err := i.client.Credentials(ctx, client.CredentialFilter{Suite: suite})
		if err != nil {
			return nil, err
		}
		for _, c := range own {
			hash := sha256.Sum256(c.SignatureKey)
			list = append(list, result{
				"ciphersuite": suite, "type": "Basic", "publicKey": c.SignatureKey, "publicKeyHash": hash[:],
				"clientId": showClientID(core.ClientID(c.Credential.Identity)),
			})
		}
	}
	return result{"credentials": list}, nil
}

func events(_ context.Context, i *instance, _ *request) (result, error) {
	list := i.events
	if i.events = nil; list == nil {
		list = []result{}
	}
	return result{"events": list}, nil
}

// maxRandom is how many random bytes one request gets.
const maxRandom = 1 << 20

func random(_ context.Context, _ *instance, r *request) (result, error) {
	if r.N == nil {
		return nil, bad("n: a number expected")
	}
	n, err := upTo("n", r.N, 0, maxRandom)
	if err != nil {
		return nil, err
	}
	return result{"bytes": client.RandomBytes(n)}, nil
}

func setData(ctx context.Context, i *instance, r *request) (result, error) {
	data, err := need("data", r.Data)
	if err != nil {
		return nil, err
	}
	return nil, i.transact(ctx, func(ctx context.Context, tx *client.Transaction) error { return tx.SetData(ctx, data) })
}

func getData(ctx context.Context, i *instance, _ *request) (result, error) {
	data, found, err := i.client.Data(ctx)
	if err != nil || !found {
		return nil, err
	}
	return result{"data": data}, nil
}

// updateDatabaseKey seals the database with another key.
func updateDatabaseKey(ctx context.Context, i *instance, r *request) (result, error) {
	if _, err := need("dbKey", r.DBKey); err != nil {
		return nil, err
	}
	wrapper, key, err := rawKey(r.DBKey)
	if err != nil {
		return nil, err
	}
	seen := func(w core.KeyWrapper) core.KeyWrapper { return audit.KeyWrapper(w, i.audit.Logger) }
	if err := i.client.UpdateKey(ctx, seen(i.wrapper), seen(wrapper)); err != nil {
		key.Wipe()
		return nil, err
	}
	i.key.Wipe()
	i.wrapper, i.key = wrapper, key
	return nil, nil
}

// dbSize tells the sizes of the database's files and, where the system tells, what the
// process has written so far.
func dbSize(_ context.Context, i *instance, _ *request) (result, error) {
	out := result{}
	if i.path != "" {
		for _, s := range []string{"", "-wal", "-shm", "-journal"} {
			if info, err := os.Stat(i.path + s); err == nil {
				out["db"+s] = info.Size()
			}
		}
	}
	f, err := os.Open("/proc/self/io")
	if err != nil {
		return out, nil // another system
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), ": ")
		if n, err := strconv.ParseInt(value, 10, 64); err == nil && (name == "wchar" || name == "syscw" || name == "write_bytes") {
			out[name] = n
		}
	}
	return out, nil
}
