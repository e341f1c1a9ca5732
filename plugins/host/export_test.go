// SPDX-License-Identifier: Apache-2.0

package host

import (
	plugin "github.com/hashicorp/go-plugin"

	"github.com/conclave-mls/conclave/plugins/internal/wire"
)

// Speaking gives a host other versions of the protocol, all as the first.
func Speaking(cfg Config, versions ...int) Config {
	cfg.versions = map[int]plugin.PluginSet{}
	for _, v := range versions {
		cfg.versions[v] = wire.Versions(nil)[1]
	}
	return cfg
}

// PID is the process of a plugin that runs, else 0.
func PID(p *Plugin) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return 0
	}
	return p.running.child.cmd.Process.Pid
}

// Socket is the folder where a plugin that runs listens.
func Socket(p *Plugin) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running.child.socket
}
