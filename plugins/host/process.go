// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/conclave-mls/conclave/core"
	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// grace is how long a plugin may take to end when it is stopped.
const grace = 2 * time.Second

// maxHeaders is how many bytes of headers the plugin may put before or after an answer.
const maxHeaders = 64 << 10

// A process is one life of a plugin.
type process struct {
	client  *plugin.Client
	child   *child
	conn    *grpc.ClientConn // once it has said what it offers
	offers  []*wire.Offer
	started time.Time

	mu    sync.Mutex
	conns []*grpc.ClientConn // that go-plugin has made
}

// start makes one process and asks what it offers.
func (p *Plugin) start(ctx context.Context) (*process, error) {
	path, err := permitted(p.cfg.Path)
	if err != nil {
		return nil, err
	}
	// Whoever could replace the file from here on is root or we: it may be named by its path.
	if err := p.pinned(path); err != nil {
		return nil, err
	}
	cmd := exec.Command(path, p.cfg.Args...)
	cmd.Env, cmd.Dir = slices.Clone(p.cfg.Env), p.cfg.Dir
	proc := &process{child: &child{cmd: cmd, exited: make(chan struct{})}, started: time.Now()}
	proc.client = plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  wire.Handshake,
		VersionedPlugins: maps.Clone(p.cfg.versions),
		RunnerFunc: func(_ hclog.Logger, spec *exec.Cmd, folder string) (runner.Runner, error) {
			cmd.Env = append(cmd.Env, spec.Env...)
			proc.child.socket = folder // nobody else may enter it
			if len(folder)+len("/plugin4294967295") > maxSocketPath {
				return nil, fmt.Errorf("TMPDIR is too long for the path of a socket, of at most %d bytes: %s", maxSocketPath, folder)
			}
			return proc.child, nil
		},
		StartTimeout:     2 * p.cfg.StartTimeout, // ours is tried in greet
		Stderr:           &lines{log: p.cfg.Logger},
		SyncStdout:       &lines{log: p.cfg.Logger},
		SyncStderr:       &lines{log: p.cfg.Logger},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
		AutoMTLS:         true,
		SkipHostEnv:      true,
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(wire.MaxFromPlugin), grpc.MaxCallSendMsgSize(wire.MaxToPlugin)),
			grpc.WithMaxHeaderListSize(maxHeaders),
			grpc.WithInitialWindowSize(wire.Window), grpc.WithInitialConnWindowSize(wire.Window),
			grpc.WithStreamInterceptor(proc.stream),
		},
	})
	limited, cancel := context.WithTimeout(ctx, p.cfg.StartTimeout)
	defer cancel()
	if err := proc.greet(limited); err != nil {
		late := limited.Err() != nil
		proc.stop()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case late:
			err = fmt.Errorf("it is not ready within %s", p.cfg.StartTimeout)
		}
		return nil, proc.failed(err, p.cfg.versions)
	}
	return proc, nil
}

// pinned compares the executable with its checksum.
func (p *Plugin) pinned(path string) error {
	if p.cfg.Unpinned {
		return nil
	}
	sum, err := Sum(path)
	if err != nil {
		return fmt.Errorf("%w: %w", core.ErrUnavailable, err)
	}
	if !slices.Equal(sum, p.cfg.SHA256) {
		return fmt.Errorf("its executable is not the one whose SHA-256 is configured: %w", core.ErrDenied)
	}
	return nil
}

// stream lets go-plugin and us open streams. It keeps the connection, which go-plugin
// forgets where the plugin dies early, and leaves out the broker of go-plugin: that is for
// further connections, which nobody needs here and which a plugin could ask for without end.
func (proc *process) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if strings.HasPrefix(method, "/plugin.") {
		proc.mu.Lock()
		proc.conns = append(proc.conns, conn)
		proc.mu.Unlock()
	}
	if strings.HasPrefix(method, "/plugin.GRPCBroker/") {
		return nil, status.Error(codes.Unimplemented, "no broker")
	}
	return open(ctx, desc, conn, method, opts...)
}

// greet starts the process, connects and asks what it offers.
func (proc *process) greet(ctx context.Context) error {
	// What go-plugin waits for ends when the process does.
	defer context.AfterFunc(ctx, func() { _ = proc.child.Kill(ctx) })()
	client, err := proc.client.Client()
	if err != nil {
		return err
	}
	conn, err := client.Dispense(wire.Name)
	if err != nil {
		return err
	}
	proc.conn = conn.(*grpc.ClientConn)
	proc.offers, err = proc.describe(ctx)
	return err
}

func (proc *process) describe(ctx context.Context) ([]*wire.Offer, error) {
	m, err := wire.NewPluginClient(proc.conn).Describe(ctx, &wire.DescribeRequest{}, grpc.MaxCallRecvMsgSize(wire.MaxOfDescribe))
	if err != nil {
		return nil, errors.New(status.Convert(err).Message())
	}
	return m.GetOffers(), checkOffers(m.GetOffers())
}

// failed says why a process could not be greeted, after its end.
func (proc *process) failed(err error, versions map[int]plugin.PluginSet) error {
	ours := slices.Sorted(maps.Keys(versions))
	if v, ok := proc.child.greeting.version(); ok && !slices.Contains(ours, v) {
		return fmt.Errorf("it speaks version %d of the protocol, this program %v: %w: %w", v, ours, core.ErrUnsupported, core.ErrUnavailable)
	}
	if end := proc.child.cmd.ProcessState; proc.conn == nil && end != nil && end.String() != "signal: killed" { // by us
		err = fmt.Errorf("it ended: %s", end)
	}
	return fmt.Errorf("start: %w: %s", core.ErrUnavailable, wire.Clean(err.Error()))
}

// stop ends the process, if it has not ended, and lets go of what belonged to it.
func (proc *process) stop() {
	// go-plugin waits without end for the answer to its good-bye.
	defer time.AfterFunc(grace, func() { _ = proc.child.Kill(context.Background()) }).Stop()
	proc.client.Kill()
	proc.mu.Lock()
	defer proc.mu.Unlock()
	for _, c := range proc.conns {
		_ = c.Close()
	}
	if proc.child.socket != "" {
		_ = os.RemoveAll(proc.child.socket)
	}
}

// checkOffers refuses what does not keep to the protocol.
func checkOffers(offers []*wire.Offer) error {
	type name struct {
		part     wire.Part
		instance string
	}
	seen := map[name]bool{}
	for _, o := range offers {
		n := name{o.GetPart(), o.GetInstance()}
		switch {
		case len(seen) == wire.MaxOffers:
			return fmt.Errorf("it offers more than %d instances", wire.MaxOffers)
		case n.part < wire.Part_PART_KEYSTORE || n.part > wire.Part_PART_KEY_WRAPPER:
			return fmt.Errorf("it offers a part that is none: %d", n.part)
		case n.instance != "" && !wire.IsName(n.instance):
			return fmt.Errorf("it offers an instance with a bad name: %.40q", n.instance)
		case seen[n]:
			return fmt.Errorf("it offers %s %q twice", n.part, n.instance)
		case n.part == wire.Part_PART_KEY_WRAPPER && !isText(o.GetWrapperId(), wire.MaxID):
			return fmt.Errorf("it offers a key wrapper whose ID is not 1 to %d bytes of printable text", wire.MaxID)
		}
		seen[n] = true
	}
	if len(seen) == 0 {
		return errors.New("it offers nothing")
	}
	return nil
}

func sameOffers(a, b []*wire.Offer) bool {
	has := func(all []*wire.Offer, o *wire.Offer) bool {
		return slices.ContainsFunc(all, func(other *wire.Offer) bool { return proto.Equal(o, other) })
	}
	return len(a) == len(b) && !slices.ContainsFunc(a, func(o *wire.Offer) bool { return !has(b, o) })
}
