package deploy_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What the "restricted" Pod Security Standard asks (https://kubernetes.io/docs/concepts/security/pod-security-standards/),
// and no token of the cluster for anybody.
func TestPodsHaveNoPrivileges(t *testing.T) {
	for name := range overlays {
		t.Run(name, func(t *testing.T) {
			for _, w := range workloads(mustDecode(t, render(t, overlays[name]))) {
				pod := w.template.Spec
				if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
					t.Errorf("%s: gets a token of the cluster", w)
				}
				s := pod.SecurityContext
				if s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 0 {
					t.Errorf("%s: may run as root", w)
				}
				if s == nil || s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
					t.Errorf("%s: has no seccomp profile", w)
				}
				for _, c := range w.containers() {
					s := c.SecurityContext
					if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
						t.Errorf("%s: %s may gain privileges", w, c.Name)
					}
					if s == nil || s.Capabilities == nil || len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
						t.Errorf("%s: %s keeps capabilities", w, c.Name)
					}
					// In development Tilt writes the new binary into the running container.
					if name != "dev" && (s == nil || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem) {
						t.Errorf("%s: %s may write its image", w, c.Name)
					}
				}
			}
		})
	}
}

func TestPodsSayWhatTheyNeed(t *testing.T) {
	for name := range overlays {
		t.Run(name, func(t *testing.T) {
			for _, w := range workloads(mustDecode(t, render(t, overlays[name]))) {
				for _, c := range w.containers() {
					if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() || c.Resources.Limits.Memory().IsZero() {
						t.Errorf("%s: %s lacks a request for CPU or memory, or a limit of memory", w, c.Name)
					}
				}
			}
		})
	}
}

// A service that hangs is restarted, and one that cannot reach its database gets no traffic.
func TestServicesAreProbed(t *testing.T) {
	for _, w := range deployments(mustDecode(t, render(t, overlays["base"]))) {
		for _, c := range w.containers() {
			for path, probe := range map[string]*corev1.Probe{"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
				if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != path {
					t.Errorf("%s: no probe of %s", w, path)
				}
			}
		}
	}
}
