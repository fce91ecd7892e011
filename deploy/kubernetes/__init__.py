"""Warren on Kubernetes: manifests for kustomize, and what makes their secrets."""
