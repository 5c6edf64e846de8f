package deploy_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// secretsExample stands in for the Secrets that production gets from elsewhere.
const secretsExample = "k8s/overlays/production/secrets.example.yaml"

// brokenReferences says where an object names another, or a part of itself, that is not there. Strict decoding sees
// each object alone, and the API server accepts a Service that selects nothing.
func brokenReferences(objects []runtime.Object) []string {
	var problems []string
	complain := func(format string, arguments ...any) { problems = append(problems, fmt.Sprintf(format, arguments...)) }

	accounts := map[string]bool{}
	secrets := map[string]map[string]bool{}
	services := map[string]*corev1.Service{}
	for _, object := range objects {
		switch o := object.(type) {
		case *corev1.ServiceAccount:
			accounts[o.Name] = true
		case *corev1.Secret:
			secrets[o.Name] = map[string]bool{}
			for key := range o.Data {
				secrets[o.Name][key] = true
			}
			for key := range o.StringData {
				secrets[o.Name][key] = true
			}
		case *corev1.Service:
			services[o.Name] = o
		}
	}

	all := workloads(objects)
	for _, w := range all {
		if w.namespace != "lockstep" {
			complain("%s: is in namespace %q", w, w.namespace)
		}
		if !accounts[w.template.Spec.ServiceAccountName] {
			complain("%s: no ServiceAccount %q", w, w.template.Spec.ServiceAccountName)
		}
		if w.serviceName != "" && services[w.serviceName] == nil {
			complain("%s: no Service %q", w, w.serviceName)
		}
		if w.selector != nil {
			if !selects(w.selector, w.template.Labels) {
				complain("%s: does not select its own pods", w)
			}
			for _, other := range all {
				if other.String() != w.String() && selects(w.selector, other.template.Labels) {
					complain("%s: also selects the pods of %s", w, other)
				}
			}
		}
		volumes := map[string]bool{}
		for _, volume := range w.template.Spec.Volumes {
			volumes[volume.Name] = true
		}
		for _, c := range w.containers() {
			for _, mount := range c.VolumeMounts {
				if !volumes[mount.Name] {
					complain("%s: no volume %q", w, mount.Name)
				}
			}
			for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
				if probe != nil && probe.HTTPGet != nil && !hasPort(c, probe.HTTPGet.Port) {
					complain("%s: a probe asks port %s, which no container has", w, probe.HTTPGet.Port.String())
				}
			}
			for _, env := range c.Env {
				if env.ValueFrom == nil || env.ValueFrom.SecretKeyRef == nil {
					continue
				}
				ref := env.ValueFrom.SecretKeyRef
				optional := ref.Optional != nil && *ref.Optional
				if !secrets[ref.Name][ref.Key] && !optional {
					complain("%s: %s: no key %q in a Secret %q", w, env.Name, ref.Key, ref.Name)
				}
			}
		}
	}

	for _, service := range services {
		var selected []workload
		for _, w := range all {
			if selects(service.Spec.Selector, w.template.Labels) {
				selected = append(selected, w)
			}
		}
		if len(selected) != 1 {
			complain("Service %s: selects the pods of %d workloads", service.Name, len(selected))
		}
		for _, w := range selected {
			for _, port := range service.Spec.Ports {
				if !slices.ContainsFunc(w.containers(), func(c corev1.Container) bool { return hasPort(c, port.TargetPort) }) {
					complain("Service %s: %s has no port %s", service.Name, w, port.TargetPort.String())
				}
			}
		}
	}

	for _, object := range objects {
		switch o := object.(type) {
		case *policyv1.PodDisruptionBudget:
			if !slices.ContainsFunc(all, func(w workload) bool { return selects(o.Spec.Selector.MatchLabels, w.template.Labels) }) {
				complain("PodDisruptionBudget %s: selects no pods", o.Name)
			}
		case *networkingv1.Ingress:
			for _, rule := range o.Spec.Rules {
				for _, path := range rule.HTTP.Paths {
					backend := path.Backend.Service
					service := services[backend.Name]
					if service == nil || !slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Name == backend.Port.Name }) {
						complain("Ingress %s: no Service %q with a port %q", o.Name, backend.Name, backend.Port.Name)
					}
				}
			}
		}
	}
	return problems
}

func selects(selector, podLabels map[string]string) bool {
	return len(selector) > 0 && labels.SelectorFromSet(selector).Matches(labels.Set(podLabels))
}

func hasPort(c corev1.Container, port intstr.IntOrString) bool {
	return slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool {
		if port.Type == intstr.String {
			return p.Name == port.StrVal
		}
		return p.ContainerPort == port.IntVal
	})
}

// rendered is an overlay as YAML, with the Secrets that it does not bring itself.
func rendered(t *testing.T, overlay string) string {
	t.Helper()
	text := render(t, overlays[overlay])
	if overlay != "dev" {
		text += "---\n" + read(t, secretsExample)
	}
	return text
}

func TestEveryReferenceHasItsObject(t *testing.T) {
	for name := range overlays {
		t.Run(name, func(t *testing.T) {
			for _, problem := range brokenReferences(mustDecode(t, rendered(t, name))) {
				t.Error(problem)
			}
		})
	}
}

// Each row plants one fault in the manifests: a check that cannot fail checks nothing.
func TestABrokenReferenceIsFound(t *testing.T) {
	tests := []struct{ name, old, new, want string }{
		{"account", "serviceAccountName: runner", "serviceAccountName: walker", `Deployment runner: no ServiceAccount "walker"`},
		{"secret", "key: admin-token", "key: admin", `Deployment api-gateway: ADMIN_TOKEN: no key "admin" in a Secret "api-gateway"`},
		{"selector", "    matchLabels:\n      app.kubernetes.io/name: reaper", "    matchLabels:\n      app.kubernetes.io/name: runner", "Deployment reaper: does not select its own pods"},
		{"two selectors", "    matchLabels:\n      app.kubernetes.io/name: reaper", "    matchLabels:\n      app.kubernetes.io/part-of: lockstep", "Deployment reaper: also selects the pods of Deployment runner"},
		{"probe", "            path: /readyz\n            port: ops", "            path: /readyz\n            port: metrics", "Deployment initializer: a probe asks port metrics, which no container has"},
		{"service port", "targetPort: http", "targetPort: web", "Service api-gateway: Deployment api-gateway has no port web"},
		{"service selector", "  selector:\n    app.kubernetes.io/name: api-gateway", "  selector:\n    app.kubernetes.io/name: gateway", "Service api-gateway: selects the pods of 0 workloads"},
		{"volume", "      - emptyDir:\n          sizeLimit: 4Gi\n        name: tmp", "      - emptyDir:\n          sizeLimit: 4Gi\n        name: temp", `Deployment initializer: no volume "tmp"`},
		{"budget", "  maxUnavailable: 1\n  selector:\n    matchLabels:\n      app.kubernetes.io/name: api-gateway", "  maxUnavailable: 1\n  selector:\n    matchLabels:\n      app.kubernetes.io/name: gateway", "PodDisruptionBudget api-gateway: selects no pods"},
		{"ingress", "            name: api-gateway\n            port:\n              name: http", "            name: api-gateway\n            port:\n              name: https", `Ingress api-gateway: no Service "api-gateway" with a port "https"`},
		{"namespace", "  name: migrate\n  namespace: lockstep\nspec:", "  name: migrate\n  namespace: other\nspec:", `Job migrate: is in namespace "other"`},
	}
	text := rendered(t, "production")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(text, test.old) {
				t.Fatalf("nothing to break: %q is not in the manifests", test.old)
			}
			problems := brokenReferences(mustDecode(t, strings.Replace(text, test.old, test.new, 1)))
			if !slices.Contains(problems, test.want) {
				t.Errorf("found %q, not %q", problems, test.want)
			}
		})
	}
}

// A Secret holds what one service needs: whoever reads the runner's learns nothing of GitHub.
func TestEachServiceReadsOnlyItsOwnSecret(t *testing.T) {
	wanted := map[string]map[string]bool{}
	for _, w := range workloads(mustDecode(t, render(t, overlays["base"]))) {
		for _, c := range w.containers() {
			for _, env := range c.Env {
				if env.ValueFrom == nil {
					continue
				}
				ref := env.ValueFrom.SecretKeyRef
				if ref == nil || ref.Name != w.name {
					t.Errorf("%s: %s does not come from the Secret %q", w, env.Name, w.name)
					continue
				}
				if wanted[ref.Name] == nil {
					wanted[ref.Name] = map[string]bool{}
				}
				wanted[ref.Name][ref.Key] = true
			}
		}
	}
	listed := map[string]map[string]bool{}
	for _, object := range mustDecode(t, read(t, secretsExample)) {
		secret, ok := object.(*corev1.Secret)
		if !ok {
			t.Fatalf("%s has a %T", secretsExample, object)
		}
		listed[secret.Name] = map[string]bool{}
		for key := range secret.StringData {
			listed[secret.Name][key] = true
		}
	}
	if !maps.EqualFunc(wanted, listed, maps.Equal[map[string]bool, map[string]bool]) {
		t.Errorf("%s lists %v, the services read %v", secretsExample, listed, wanted)
	}
}
