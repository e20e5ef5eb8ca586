"""Examples of every verb, as its ``--help`` shows them."""

EXAMPLES = {
    "run": """
  kdsweep run digits                                  the demonstration
  kdsweep run pareto_cifar10 --data DATA --trials 200
  kdsweep run my.yaml --set epochs=60 --set 'method=kd+at' --results s3://bucket/results
  kdsweep run pareto_cifar10 --address auto --gpus-per-trial 0.25
  kdsweep run my.yaml --data DATA --dry-run           what would run, and what is guessed""",
    "resume": """
  kdsweep resume digits""",
    "confirm": """
  kdsweep confirm digits --seeds 5""",
    "trial": """
  kdsweep trial digits method=kd temperature=4
  kdsweep trial digits method=kd+at --pdb             debugger where it breaks
  kdsweep trial digits method=at --profile at.json    where a step's time goes
  kdsweep trial compare_kd_cifar100 'pair=wrn_40_2->wrn_40_1' method=dist --data DATA
  kdsweep trial --replay digits digits-00007          the same trial again""",
    "table": """
  kdsweep table digits
  kdsweep table digits --format latex > table.tex
  kdsweep table compare_kd_cifar100 --against published""",
    "front": """
  kdsweep front digits
  kdsweep front digits --objective val_acc=max --objective latency_ms=min""",
    "plot": """
  kdsweep plot digits -o digits.png
  kdsweep plot digits other --x compression_macs -o both.svg""",
    "query": """
  kdsweep query "SELECT method, max(val_acc) FROM trials GROUP BY method ORDER BY 2 DESC"
  kdsweep query "SELECT epoch, val_acc FROM epochs WHERE trial_id = 'digits-00003'" --csv
  kdsweep query --columns""",
    "studies": """
  kdsweep studies
  kdsweep studies digits
  kdsweep studies --schema > study.schema.json        for an editor's completion""",
    "methods": """
  kdsweep methods
  kdsweep methods kd""",
    "compressions": """
  kdsweep compressions
  kdsweep compressions gpfq""",
    "optimizers": """
  kdsweep optimizers
  kdsweep optimizers muon""",
    "explainers": """
  kdsweep explainers
  kdsweep explainers grad_cam""",
    "models": """
  kdsweep models
  kdsweep models wrn_16_2 --classes 100""",
    "datasets": """
  kdsweep datasets
  kdsweep datasets cifar10 --data DATA --download""",
    "teacher": """
  kdsweep teacher import resnet56 resnet56.th --dataset cifar10 --data DATA
  kdsweep teacher import timm:resnet18 net.safetensors --dataset imagefolder:flowers --name mine
  kdsweep teacher train pareto_cifar10 --data DATA
  kdsweep teacher adopt digits digits-00007 --name assistant    teacher: {name: assistant}
  kdsweep teacher list""",
    "export": """
  kdsweep export digits digits-00007 --onnx student.onnx
  kdsweep export digits digits-00007 --onnx student.onnx --normalise    takes uint8 pixels
  kdsweep export pareto_cifar10 pareto_cifar10-00042 --pt2 student.pt2 --data DATA
  kdsweep export --teacher resnet56 --onnx teacher.onnx""",
    "inspect": """
  kdsweep inspect digits digits-00007
  kdsweep inspect digits digits-00007 --csv > layers.csv
  kdsweep inspect pareto_cifar10 pareto_cifar10-00042 -o pictures --data DATA""",
    "explain": """
  kdsweep explain digits -o digits.png                the best trial of each method
  kdsweep explain pareto_cifar10 pareto_cifar10-00042 -o why.svg --data DATA
  kdsweep explain digits digits-00007 -o why.pdf --explainers grad_cam+lrp --images 4""",
    "cache": """
  kdsweep cache list
  kdsweep cache clear                                 all of it; trials make it again""",
}
